// Command userdata prints user data for EC2, for make user-data: a script of examples/user-data with its settings,
// packed. It calls nothing, and nothing secret is in what it prints.
package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
)

// limit is how many bytes of user data EC2 takes, before they are encoded in base64.
const limit = 16384

func main() {
	os.Exit(command(os.DirFS("."), os.Getenv, os.Stdout, os.Stderr))
}

// command prints user data and returns 0, or it prints all that is wrong and returns 2.
func command(checkout fs.FS, getenv func(string) string, stdout, stderr io.Writer) int {
	data, err := userData(checkout, getenv)
	if err == nil {
		_, err = stdout.Write(data)
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}
	fmt.Fprintf(stderr, "%d bytes of user data: %d of EC2's %d are left\n", len(data), limit-len(data), limit)
	return 0
}

func userData(checkout fs.FS, getenv func(string) string) ([]byte, error) {
	o, err := parseOrder(checkout, getenv)
	if err != nil {
		return nil, err
	}
	data := o.linux()
	if o.os == "windows" {
		data = o.windows()
	}
	if len(data) > limit {
		return nil, fmt.Errorf("this would be %d bytes of user data, and EC2 takes %d: make EXTRA shorter", len(data), limit)
	}
	return data, nil
}
