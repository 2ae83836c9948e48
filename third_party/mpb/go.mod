module github.com/vbauerster/mpb/v8

go 1.26.0
