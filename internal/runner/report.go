package runner

// Report is what a self-check found: the findings, and the worst status among them.
type Report struct {
	Status   Status    `json:"status"`
	Findings []Finding `json:"findings"`
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

// Add adds a finding, and counts its status.
func (r *Report) Add(f Finding) {
	r.Findings = append(r.Findings, f)
	if r.Status == "" || f.Status == Failed || f.Status == Warning && r.Status == OK {
		r.Status = f.Status
	}
}
