package runner

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestUnclassifiedErrorKeepsItsTextFromTheCaller(t *testing.T) {
	e := AsError(fmt.Errorf("outer: %w", errors.New("inner")))
	if e.Code != Internal || e.Message != "internal error" || !strings.Contains(e.Error(), "inner") {
		t.Errorf("%+v", e)
	}
	wrapped := fmt.Errorf("outer: %w", &Error{Code: RateLimited})
	if AsError(wrapped).Code != RateLimited {
		t.Error("a wrapped Error is not found")
	}
}

func TestEachCodeHasATextForCallers(t *testing.T) {
	if len(messages) != len(Codes) {
		t.Errorf("%d texts for %d codes", len(messages), len(Codes))
	}
	for _, code := range Codes {
		if e := (Cause{Code: code}).Refuse("x"); e.Message == "" {
			t.Errorf("%s has no text", code)
		}
	}
}
