// Package spec has the media types of encrypted layers, by which an image that
// cannot be used is recognised.
package spec

const (
	layer            = "application/vnd.oci.image.layer.v1.tar"
	nonDistributable = "application/vnd.oci.image.layer.nondistributable.v1.tar"

	MediaTypeLayerEnc                     = layer + "+encrypted"
	MediaTypeLayerGzipEnc                 = layer + "+gzip+encrypted"
	MediaTypeLayerZstdEnc                 = layer + "+zstd+encrypted"
	MediaTypeLayerNonDistributableEnc     = nonDistributable + "+encrypted"
	MediaTypeLayerNonDistributableGzipEnc = nonDistributable + "+gzip+encrypted"
	MediaTypeLayerNonDistributableZstdEnc = nonDistributable + "+zstd+encrypted"
)
