package readme_test

import (
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"runner-token-broker/e2e/rig"
	"runner-token-broker/internal/runner"
)

// pages returns the Markdown files, by their paths from the root.
func pages(t *testing.T) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), rig.Tool(t, "git"),
		"ls-files", "--cached", "--others", "--exclude-standard", "*.md")
	cmd.Dir = rig.Root
	found := strings.Fields(rig.Output(t, cmd))
	if !slices.Contains(found, "README.md") {
		t.Fatalf("the pages are %v", found)
	}
	return found
}

var fences = regexp.MustCompile("(?ms)^```.*?^```$")

// anchors returns the names that GitHub gives to a page's headings.
func anchors(text string) (names []string) {
	text = fences.ReplaceAllString(text, "")
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		name := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		names = append(names, strings.ReplaceAll(name, " ", "-"))
	}
	return names
}

// A link to a file or a heading that was renamed leads nowhere, at night.
func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, page := range pages(t) {
		t.Run(page, func(t *testing.T) {
			t.Parallel()
			text := rig.ReadFile(t, filepath.Join(rig.Root, page))
			for _, l := range link.FindAllStringSubmatch(fences.ReplaceAllString(text, ""), -1) {
				u, err := url.Parse(l[1])
				if err != nil || u.IsAbs() {
					if err != nil || u.Scheme != "https" || u.Host == "" {
						t.Errorf("%s is not the address of a page", l[1])
					}
					continue
				}
				target := page
				if u.Path != "" {
					target = filepath.Join(filepath.Dir(page), u.Path)
				}
				file := filepath.Join(rig.Root, target)
				if _, err := os.Stat(file); err != nil {
					t.Errorf("%s: there is no %s", l[1], target)
				} else if u.Fragment != "" && !slices.Contains(anchors(rig.ReadFile(t, file)), u.Fragment) {
					t.Errorf("%s: %s has no heading of that name", l[1], target)
				}
			}
		})
	}
}

const operating = "docs/operating.md"

// InvalidRequest is the caller's.
func TestRunbookHasEachCode(t *testing.T) {
	t.Parallel()
	text := rig.ReadFile(t, filepath.Join(rig.Root, operating))
	for _, code := range runner.Codes {
		if code != runner.InvalidRequest && !strings.Contains(text, "\n### "+string(code)+"\n") {
			t.Errorf("%s has no heading %s", operating, code)
		}
	}
}

// An alarm at night names its heading, and no heading is left of one that is gone.
func TestEachAlarmHasAHeading(t *testing.T) {
	t.Parallel()
	named := func(file, pattern string) (names []string) {
		text := rig.ReadFile(t, filepath.Join(rig.Root, file))
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			names = append(names, m[1])
		}
		slices.Sort(names)
		return names
	}
	alarms := named("template.yaml", `(?m)^  (\w+):\n    Type: AWS::CloudWatch::Alarm$`)
	if headings := named("docs/alarms.md", `(?m)^### (\w+)$`); len(alarms) == 0 || !slices.Equal(alarms, headings) {
		t.Errorf("the headings are %q, and the alarms %q", headings, alarms)
	}
}

func TestREADMEHasEachCode(t *testing.T) {
	t.Parallel()
	text := rig.ReadFile(t, filepath.Join(rig.Root, "README.md"))
	for _, code := range runner.Codes {
		if !strings.Contains(text, "\n| `"+string(code)+"` | ") {
			t.Errorf("the README has no row for %s", code)
		}
	}
}

// docs/errors.md has all causes, from the code. What the runbook adds to some of them goes with their codes.
func TestRunbookNamesCausesAsTheCodeDoes(t *testing.T) {
	t.Parallel()
	quoted := regexp.MustCompile("`([a-z-]+)`")
	errors := rig.ReadFile(t, filepath.Join(rig.Root, "docs/errors.md"))
	explained := 0
	for _, section := range strings.Split(rig.ReadFile(t, filepath.Join(rig.Root, operating)), "\n### ")[1:] {
		code, text, _ := strings.Cut(section, "\n")
		text, _, _ = strings.Cut(text, "\n## ")
		for row := range strings.SplitSeq(text, "\n| ") {
			causes, _, isRow := strings.Cut(row, " | ")
			if !isRow || causes == "`cause`" || !strings.HasPrefix(causes, "`") {
				continue
			}
			for _, cause := range quoted.FindAllStringSubmatch(causes, -1) {
				explained++
				row := regexp.MustCompile("(?m)^\\| `" + cause[1] + "` \\| [^|]*`" + code + "`")
				if !row.MatchString(errors) {
					t.Errorf("%s has %s under %s, and docs/errors.md has not", operating, cause[1], code)
				}
			}
		}
	}
	if explained < 20 {
		t.Errorf("%d causes were found in %s", explained, operating)
	}
}
