module github.com/sylabs/sif/v2

go 1.26.0
