package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// ration is a share of a processor for one process at a time. It needs root and the kernel's control groups, of version
// 1 or 2.
type ration struct{ group string }

const period = 20_000 // microseconds

func newRation(share float64) (*ration, error) {
	quota := int(share * period)
	name := fmt.Sprint("bench-", os.Getpid())
	parent, files := "/sys/fs/cgroup/cpu", map[string]string{
		"cpu.cfs_period_us": strconv.Itoa(period), "cpu.cfs_quota_us": strconv.Itoa(quota),
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil { // version 2
		parent, files = "/sys/fs/cgroup", map[string]string{"cpu.max": fmt.Sprint(quota, " ", period)}
	}
	r := &ration{filepath.Join(parent, name)}
	if err := os.Mkdir(r.group, 0o755); err != nil {
		return nil, fmt.Errorf("a share of a processor needs root and control groups: %w", err)
	}
	if err := r.write(files); err != nil {
		r.close()
		return nil, fmt.Errorf("a share of a processor needs the kernel's controller for it: %w", err)
	}
	return r, nil
}

func (r *ration) write(files map[string]string) error {
	for name, value := range files {
		if err := write(filepath.Join(r.group, name), value); err != nil {
			return err
		}
	}
	return nil
}

// write writes to a file of the kernel's. It makes none, as os.WriteFile would.
func write(path, value string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.WriteString(value)
	return err
}

// put rations a process.
func (r *ration) put(pid int) error {
	return r.write(map[string]string{"cgroup.procs": strconv.Itoa(pid)})
}

// close is for when no process is rationed any more.
func (r *ration) close() error { return os.Remove(r.group) }
