module github.com/fsouza/go-dockerclient

go 1.26.0
