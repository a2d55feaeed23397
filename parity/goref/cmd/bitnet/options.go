package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"runtime"
	"strconv"
	"strings"

	"conform/goref/internal/gguf"
	"conform/goref/internal/model"
	"conform/goref/internal/sample"
)

// options are the command line.
type options struct {
	model, prompt    string
	maxTokens, batch int
	procs            int
	sampling         sample.Options
}

var errUsage = errors.New("used wrongly")

// parse reads the command line. When it fails, it has written the reason to stderr.
func parse(arguments []string, stderr io.Writer) (options, error) {
	var o options
	var temperature, topP float64
	flags := flag.NewFlagSet("bitnet", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.model, "model", "", "GGUF `file` (required)")
	flags.StringVar(&o.prompt, "prompt", "", "`text` to continue, taken verbatim")
	flags.IntVar(&o.maxTokens, "max-tokens", 32, "exactly this many tokens are produced")
	flags.Int64Var(&o.sampling.Seed, "seed", 1, "seed of the first sequence")
	flags.Float64Var(&temperature, "temp", 0, "temperature; 0 or less is greedy")
	flags.IntVar(&o.sampling.TopK, "top-k", 0, "draw from the k largest logits; 0 is off")
	flags.Float64Var(&topP, "top-p", 1, "draw from the smallest set of this probability; outside (0, 1] is off")
	flags.IntVar(&o.batch, "batch", 1, "number of sequences, with seed, seed+1, …; the first one's text is printed")
	flags.IntVar(&o.procs, "procs", 0, "processors to use; 0 leaves two free")
	if err := flags.Parse(arguments); err != nil {
		return o, err
	}
	if problem := o.problem(flags.Args(), temperature); problem != "" {
		fmt.Fprintf(stderr, "bitnet: %s\n", problem)
		return o, errUsage
	}
	o.sampling.Temperature, o.sampling.TopP = float32(temperature), float32(topP)
	if !(topP > 0 && topP <= 1) {
		o.sampling.TopP = 1
	}
	return o, nil
}

func (o options) problem(rest []string, temperature float64) string {
	switch {
	case len(rest) > 0:
		return fmt.Sprintf("unexpected argument %q", rest[0])
	case o.model == "":
		return "--model is required"
	case strings.ContainsAny(o.model, "\r\n"):
		return fmt.Sprintf("--model %q holds a line break, which the output line cannot show", o.model)
	case o.maxTokens < 0 || o.maxTokens > math.MaxInt32:
		return fmt.Sprintf("--max-tokens %d, expected 0 to %d", o.maxTokens, math.MaxInt32)
	case o.batch < 1:
		return fmt.Sprintf("--batch %d, expected at least 1", o.batch)
	case o.procs < 0:
		return fmt.Sprintf("--procs %d, expected 0 or more", o.procs)
	case o.sampling.TopK < 0:
		return fmt.Sprintf("--top-k %d, expected 0 or more", o.sampling.TopK)
	case temperature > 0 && (float32(temperature) == 0 || math.IsInf(float64(float32(temperature)), 0)), math.IsNaN(temperature):
		return fmt.Sprintf("--temp %v is not a float32", temperature)
	}
	return ""
}

// statusOf returns the exit status for an error of parse; asking for help is not a mistake.
func statusOf(err error) int {
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	return 2
}

func (o options) processors() int {
	if o.procs > 0 {
		return o.procs
	}
	return max(1, runtime.NumCPU()-2)
}

// line returns what is printed on stdout: one line.
func (o options) line(file *gguf.File, m *model.Model, text string) string {
	batch := ""
	if o.batch > 1 {
		batch = fmt.Sprintf(" batch=%d", o.batch)
	}
	return fmt.Sprintf("model=%s arch=%s gguf_version=%d tensors=%d kv=%d ctx=%d vocab=%d tokens=%d%s output=%s\n",
		o.model, m.Arch, file.Version, len(file.Tensors), len(file.Metadata), m.Context, m.Vocab, o.maxTokens, batch,
		strconv.Quote(text))
}
