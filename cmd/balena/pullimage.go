package main

import (
	"context"
	"errors"
)

type pulled struct{ ID string }

func (e *env) pullImages(context.Context, string, any, bool) ([]pulled, error) {
	return nil, errors.New("pulling comes in the next commit")
}
