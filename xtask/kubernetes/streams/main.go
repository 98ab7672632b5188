// What a kubelet serves to the API server beside its pods: commands in their containers, and their logs. The
// streams are those of the real one's library; containers are processes, and pods are folders:
// PODS/by-name/NAMESPACE_POD/CONTAINER has the file pid, and the logs 0.log, 1.log and so on.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

const (
	idle          = 4 * time.Hour
	streamsWithin = 30 * time.Second
	lookEvery     = 200 * time.Millisecond
)

func main() {
	listen := flag.String("listen", "", "address")
	pods := flag.String("pods", "", "where the node's pods are")
	ca := flag.String("ca", "", "whose clients are answered")
	cert := flag.String("cert", "", "certificate")
	key := flag.String("key", "", "its key")
	flag.Parse()
	pem, err := os.ReadFile(*ca)
	if err != nil {
		log.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(pem)
	node := node{*pods}
	mux := http.NewServeMux()
	for _, method := range []string{"GET", "POST"} {
		mux.HandleFunc(method+" /exec/{namespace}/{pod}/{container}", node.exec)
		mux.HandleFunc(method+" /exec/{namespace}/{pod}/{uid}/{container}", node.exec)
	}
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", node.logs)
	server := http.Server{
		Addr:    *listen,
		Handler: mux,
		TLSConfig: &tls.Config{
			ClientAuth: tls.RequireAndVerifyClientCert,
			ClientCAs:  clients,
		},
		// Streams of commands take the connection over, which HTTP/2 has no way to do.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	log.Fatal(server.ListenAndServeTLS(*cert, *key))
}

type node struct{ pods string }

// The folder of a container.
func (n node) container(r *http.Request) string {
	pod := r.PathValue("namespace") + "_" + r.PathValue("pod")
	return filepath.Join(n.pods, "by-name", filepath.Base(pod), filepath.Base(r.PathValue("container")))
}

func (n node) exec(w http.ResponseWriter, r *http.Request) {
	options, err := remotecommand.NewOptions(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeExec(w, r, inside{n.container(r)}, r.PathValue("pod"), "", r.PathValue("container"),
		r.URL.Query()["command"], options, idle, streamsWithin, remotecommand.SupportedStreamingProtocols)
}

// inside runs commands where the process of a container is.
type inside struct{ dir string }

func (i inside) ExecInContainer(ctx context.Context, _, _, _ string, cmd []string, in io.Reader,
	out, errs io.WriteCloser, _ bool, _ <-chan remotecommand.TerminalSize, _ time.Duration) error {
	pid, err := os.ReadFile(filepath.Join(i.dir, "pid"))
	if err != nil {
		return errors.New("the container does not run")
	}
	process := strings.TrimSpace(string(pid))
	environment, err := os.ReadFile(filepath.Join("/proc", process, "environ"))
	if err != nil {
		return errors.New("the container has ended")
	}
	args := append([]string{"--pdeathsig", "KILL", "nsenter", "--target", process, "--mount", "--root", "--wd", "--"}, cmd...)
	command := exec.CommandContext(ctx, "setpriv", args...)
	command.Env = strings.Split(strings.TrimRight(string(environment), "\x00"), "\x00")
	command.Stdin, command.Stdout, command.Stderr = in, out, errs
	err = command.Run()
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		code := ended.ExitCode()
		// As a shell and container runtimes count: a signal is 128 and its number.
		if status, ok := ended.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			code = 128 + int(status.Signal())
		}
		return utilexec.CodeExitError{Err: err, Code: code}
	}
	return err
}

func (n node) logs(w http.ResponseWriter, r *http.Request) {
	dir := n.container(r)
	all, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	newest := len(all) - 1
	query := r.URL.Query()
	if query.Get("previous") == "true" {
		newest--
	}
	file, err := os.Open(filepath.Join(dir, fmt.Sprintf("%d.log", newest)))
	if err != nil {
		http.Error(w, "the container has no such log", http.StatusNotFound)
		return
	}
	defer file.Close()
	text, err := io.ReadAll(file)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if count, err := strconv.Atoi(query.Get("tailLines")); err == nil {
		lines := bytes.SplitAfter(text, []byte("\n"))
		if len(lines) > 0 && len(lines[len(lines)-1]) == 0 {
			lines = lines[:len(lines)-1]
		}
		text = bytes.Join(lines[max(0, len(lines)-count):], nil)
	}
	w.Write(text)
	if query.Get("follow") != "true" {
		return
	}
	for r.Context().Err() == nil {
		w.(http.Flusher).Flush()
		time.Sleep(lookEvery)
		if _, err := io.Copy(w, file); err != nil {
			return
		}
	}
}
