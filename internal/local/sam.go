package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// sam builds the function and runs a command of the SAM CLI, which starts the function in a container. Without SAM_ENV,
// stand-ins for what the function calls run as long as SAM does.
func sam(ctx context.Context, s settings, stdout, stderr io.Writer) error {
	arch := "arm64" // the container runs on this machine's processor
	if runtime.GOARCH == "amd64" {
		arch = "x86_64"
	}
	build := exec.CommandContext(ctx, "make", "-s", "build", "ARCH="+arch)
	build.Stdout, build.Stderr = stderr, stderr // on stdout is SAM's answer alone
	if err := build.Run(); err != nil {
		return fmt.Errorf("make build: %w", err)
	}

	// --docker-volume-basedir is where the template's CodeUri begins: with the function that was just built. sam
	// build's copy may be for deployment.
	args := append(s.samCommand, "--template", "template.yaml", "--docker-volume-basedir", ".build/"+arch,
		"--parameter-overrides", "Architecture="+arch)
	env := without(os.Environ(), "GITHUB_PAT=")
	if s.samEnv != "" {
		args = append(args, "--env-vars", s.samEnv)
	} else {
		var st stack
		defer st.close()
		standIns, err := st.samEnv(s, log.New(stderr, "", 0))
		if err != nil {
			return err
		}
		// In the container localhost is two addresses, its own loopback and the host's. Where the first refuses the
		// connection, Go tries the second.
		args = append(args, "--add-host", "localhost:host-gateway")
		env = append(without(env, "AWS_"), standIns...)
	}

	cmd := exec.CommandContext(ctx, "sam", append(args, s.samFlags...)...)
	cmd.Env = env
	cmd.Stdout, cmd.Stderr = stdout, stderr
	// A terminal sends Ctrl-C to the whole process group. A second one from here would break SAM off while it removes
	// its container.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	err := cmd.Run()
	switch _, failed := errors.AsType[*exec.ExitError](err); {
	case failed:
		return errRefused // it has said why
	case cmd.ProcessState != nil: // with err it was interrupted, and ended well
		return nil
	}
	return err
}

// samEnv starts the stand-ins, and returns what SAM's environment needs for the function to reach them.
func (st *stack) samEnv(s settings, say *log.Logger) (env []string, err error) {
	host := hostGateway()
	role, err := st.standIns(s, host, say)
	if err != nil {
		return nil, err
	}
	env = []string{
		"AWS_ACCESS_KEY_ID=" + role.AccessKeyID,
		"AWS_SECRET_ACCESS_KEY=" + role.SecretAccessKey,
		"AWS_SESSION_TOKEN=" + role.SessionToken,
		"AWS_REGION=" + region,
		"AWS_DEFAULT_REGION=" + region,
		// SAM asks STS for the account's number, is refused here, and makes one up.
		"AWS_ENDPOINT_URL=" + s.env["AWS_ENDPOINT_URL_SECRETS_MANAGER"],
	}
	for name, value := range s.env { // SAM hands on those that the template declares
		// The function takes http from loopback alone.
		env = append(env, name+"="+strings.Replace(value, "http://"+host+":", "http://localhost:", 1))
	}
	return env, nil
}

func without(env []string, prefix string) []string {
	return slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, prefix) })
}

// hostGateway returns the address that containers reach as host-gateway. It is that of Docker's bridge, or of loopback
// where Docker runs in a virtual machine and there is no bridge.
func hostGateway() string {
	if bridge, err := net.InterfaceByName("docker0"); err == nil {
		addresses, _ := bridge.Addrs()
		for _, a := range addresses {
			if a, ok := a.(*net.IPNet); ok && a.IP.To4() != nil {
				return a.IP.String()
			}
		}
	}
	return "127.0.0.1"
}
