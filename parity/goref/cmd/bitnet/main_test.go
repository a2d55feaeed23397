package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func status(arguments ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = run(arguments, nil, &out, &err)
	return code, out.String(), err.String()
}

func TestWrongUsageIsStatusTwo(t *testing.T) {
	for _, arguments := range [][]string{
		{}, {"--model", "m", "extra"}, {"--model", "m", "--max-tokens", "-1"}, {"--model", "m", "--batch", "0"},
		{"--model", "m", "--top-k", "-1"}, {"--model", "m", "--temp", "NaN"}, {"--model", "m", "--temp", "1e-60"},
		{"--model", "m", "--procs", "-1"}, {"--unknown"}, {"--model", "a\nb"}, {"--model", "m", "--seed", "x"},
	} {
		if code, out, err := status(arguments...); code != 2 || out != "" || err == "" {
			t.Errorf("%q: status %d, stdout %q, stderr %q", arguments, code, out, err)
		}
	}
}

func TestHelpIsStatusZero(t *testing.T) {
	if code, _, err := status("--help"); code != 0 || !strings.Contains(err, "-max-tokens") {
		t.Errorf("status %d, %q", code, err)
	}
}

func TestWhatCannotBeLoadedIsOneLineAndStatusOne(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty\x1b.gguf")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{empty, "/nowhere/m.gguf", t.TempDir()} {
		code, out, err := status("--model", path)
		if code != 1 || out != "" || !strings.Contains(err, " load model: ") || strings.Count(err, "\n") != 1 {
			t.Errorf("%q: status %d, stdout %q, stderr %q", path, code, out, err)
		}
	}
}

func TestTheFlagsThatMayBeOutOfRangeAreOff(t *testing.T) {
	for _, value := range []string{"0", "-1", "1.5", "NaN"} {
		o, err := parse([]string{"--model=m", "--top-p=" + value}, &bytes.Buffer{})
		if err != nil || o.sampling.TopP != 1 {
			t.Errorf("--top-p %s: %v, %v", value, o.sampling.TopP, err)
		}
	}
	if o, _ := parse([]string{"--model=m"}, &bytes.Buffer{}); o.maxTokens != 32 || o.sampling.Seed != 1 || o.batch != 1 {
		t.Errorf("defaults: %+v", o)
	}
}
