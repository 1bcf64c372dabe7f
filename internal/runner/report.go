package runner

import "slices"

// Refreshed is what came of a refresh of the shared tokens.
type Refreshed struct {
	Written    int            `json:"written"`
	Age        string         `json:"age,omitempty"` // of what was written before, where that is too young to write again
	Failed     []NotRefreshed `json:"failed,omitempty"`
	Dropped    int            `json:"dropped,omitempty"`     // the oldest entries, for which the secret has no room
	PassedOver []string       `json:"passed_over,omitempty"` // wildcards: nobody knows what they will be asked for
}

// NotRefreshed is a target that got no new token.
type NotRefreshed struct {
	Target string `json:"target"`
	Code   Code   `json:"code"`
	Cause  string `json:"cause"`
}

// Report is what a self-check found: the findings, and the worst status among them.
type Report struct {
	Status   Status    `json:"status"`
	Findings []Finding `json:"findings"`
	GitHub   Trace     `json:"-"` // of all answers: the least that is left of a quota, and the first end of a credential
}

// Status says how bad a finding is.
type Status string

const (
	OK      Status = "ok"
	Warning Status = "warning" // an operator must act soon
	Failed  Status = "failed"  // an operator must act now
)

// Finding is one thing that was looked at. Nothing in it is secret.
type Finding struct {
	Subject  string `json:"subject"` // a target, a credential, "settings", ...
	Status   Status `json:"status"`
	Code     Code   `json:"code,omitempty"`
	Cause    string `json:"cause,omitempty"`
	Evidence string `json:"evidence"`
	Remedy   string `json:"remedy,omitempty"`
}

// NotOK returns the findings that an operator must act on.
func (r Report) NotOK() []Finding {
	return slices.DeleteFunc(slices.Clone(r.Findings), func(f Finding) bool { return f.Status == OK })
}

// Add adds a finding, and counts its status.
func (r *Report) Add(f Finding) {
	r.Findings = append(r.Findings, f)
	if r.Status == "" || f.Status == Failed || f.Status == Warning && r.Status == OK {
		r.Status = f.Status
	}
}
