package rig

import (
	"encoding/json"
	"testing"
)

// Line waits for the function's line about an invocation, and returns it.
func (f *Function) Line(t *testing.T) string {
	t.Helper()
	line, err := f.Printed.Wait(t.Context(), `.*"_aws":.*\n`) // it comes after the answer
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// Metrics waits for the function's line, and returns what CloudWatch would make of it: the value of each metric by its
// name and, besides the function's name, its dimension, as in "Invocations Outcome=issued".
func (f *Function) Metrics(t *testing.T) map[string]float64 {
	t.Helper()
	line := []byte(f.Line(t))
	var log map[string]any
	var metrics struct {
		AWS struct {
			CloudWatchMetrics []struct {
				Dimensions [][]string
				Metrics    []struct{ Name string }
			}
		} `json:"_aws"`
	}
	if json.Unmarshal(line, &log) != nil || json.Unmarshal(line, &metrics) != nil {
		t.Fatalf("the function printed %s", line)
	}
	values := map[string]float64{}
	for _, d := range metrics.AWS.CloudWatchMetrics {
		for _, set := range d.Dimensions {
			name := ""
			for _, dimension := range set[1:] {
				name += " " + dimension + "=" + log[dimension].(string)
			}
			for _, m := range d.Metrics {
				values[m.Name+name] = log[m.Name].(float64)
			}
		}
	}
	return values
}
