// Package build builds images from Dockerfiles through buildah.
//
// buildah reads the Dockerfile, keeps the cache and makes the layers. What
// surrounds it is ours: base images come through package pull, so that they are
// durable and delta-aware; the commands of RUN go through our own OCI runtime
// and our own network; layers and names are on stable storage before anybody is
// told about them (durable.Store). docs/build.md describes what a user sees,
// docs/design/0012-build.md why it is put together this way.
package build
