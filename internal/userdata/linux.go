package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"strings"
)

// linux returns the script with its settings before it, in gzip, which cloud-init unpacks.
func (o order) linux() []byte {
	interpreter, script, _ := strings.Cut(o.script, "\n")
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n# Made by make user-data.\n", interpreter)
	for _, s := range o.settings {
		fmt.Fprintf(&b, "export %s='%s'\n", s.name, strings.ReplaceAll(s.value, "'", `'\''`))
	}
	if o.extra != "" {
		// The script copies this file, to be run again with arguments.
		fmt.Fprintf(&b, "if (($# == 0)); then\nset -e\n%s\nfi\n", o.extra)
	}
	b.WriteString(script)
	return pack(b.String())
}

// pack compresses a text. The same text always becomes the same bytes: they hold no time and no name.
func pack(text string) []byte {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err == nil {
		_, err = z.Write([]byte(text))
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		panic(err) // a buffer takes everything
	}
	return b.Bytes()
}
