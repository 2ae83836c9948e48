// Package build builds images from Dockerfiles through buildah.
package build
