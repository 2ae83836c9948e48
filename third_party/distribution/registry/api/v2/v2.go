// Package v2 takes the place of
// github.com/docker/distribution/registry/api/v2: the error codes about
// manifests, blobs, names and tags.
package v2

import "github.com/docker/distribution/registry/api/errcode"

// The codes, as the OCI distribution specification has them, and docker's own.
var (
	ErrorCodeDigestInvalid           errcode.ErrorCode = "DIGEST_INVALID"
	ErrorCodeSizeInvalid             errcode.ErrorCode = "SIZE_INVALID"
	ErrorCodeNameInvalid             errcode.ErrorCode = "NAME_INVALID"
	ErrorCodeNameUnknown             errcode.ErrorCode = "NAME_UNKNOWN"
	ErrorCodeTagInvalid              errcode.ErrorCode = "TAG_INVALID"
	ErrorCodeManifestUnknown         errcode.ErrorCode = "MANIFEST_UNKNOWN"
	ErrorCodeManifestInvalid         errcode.ErrorCode = "MANIFEST_INVALID"
	ErrorCodeManifestUnverified      errcode.ErrorCode = "MANIFEST_UNVERIFIED"
	ErrorCodeManifestBlobUnknown     errcode.ErrorCode = "MANIFEST_BLOB_UNKNOWN"
	ErrorCodeBlobUnknown             errcode.ErrorCode = "BLOB_UNKNOWN"
	ErrorCodeBlobUploadUnknown       errcode.ErrorCode = "BLOB_UPLOAD_UNKNOWN"
	ErrorCodeBlobUploadInvalid       errcode.ErrorCode = "BLOB_UPLOAD_INVALID"
	ErrorCodePaginationNumberInvalid errcode.ErrorCode = "PAGINATION_NUMBER_INVALID"
)
