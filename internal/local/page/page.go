// Package page puts figures into a page of the documentation: between two lines, of which the first names the command
// that writes what follows.
package page

import (
	"fmt"
	"os"
	"strings"
)

const end = "<!-- To here. -->\n"

// Replace returns the page with text in the place of what the command wrote before.
func Replace(page, command, text string) (string, error) {
	begin := "<!-- From here on, " + command + " writes the page. -->\n"
	before, rest, begins := strings.Cut(page, begin)
	_, after, ends := strings.Cut(rest, end)
	if !begins || !ends {
		return "", fmt.Errorf("the page has no place for the figures: the lines %q and %q", begin, end)
	}
	return before + begin + text + "\n" + end + after, nil
}

// Update does it in a file.
func Update(path, command, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	page, err := Replace(string(old), command, text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(page), 0o644)
}
