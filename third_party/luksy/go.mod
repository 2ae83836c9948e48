module github.com/containers/luksy

go 1.26.0
