module dario.cat/mergo

go 1.26.0
