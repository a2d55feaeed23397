// Command bitnet continues a prompt with a GGUF model and prints one line. See docs/reference/goref.md.
package main

import (
	"fmt"
	"io"
	"log"
	"os"
	"runtime"
	"time"

	"conform/goref/internal/fault"
	"conform/goref/internal/generate"
	"conform/goref/internal/gguf"
	"conform/goref/internal/model"
	"conform/goref/internal/observe"
	"conform/goref/internal/vocab"
)

func main() {
	os.Exit(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run returns the exit status: 0 success, 1 refused or failed, 2 used wrongly.
func run(arguments, environment []string, stdout, stderr io.Writer) int {
	o, err := parse(arguments, stderr)
	if err != nil {
		return statusOf(err)
	}
	errors := log.New(stderr, "", log.LstdFlags)
	settings, err := observe.Read(environment)
	if err != nil {
		errors.Print(fault.Line(err))
		return 1
	}
	runtime.GOMAXPROCS(o.processors())
	line, err := answer(o, settings, stderr)
	if err == nil {
		_, err = io.WriteString(stdout, line)
	}
	if err != nil {
		errors.Print(fault.Line(err))
		return 1
	}
	return 0
}

// answer loads the model, generates and returns the output line.
func answer(o options, settings observe.Settings, stderr io.Writer) (string, error) {
	started := time.Now()
	file, err := gguf.Open(o.model)
	if err != nil {
		return "", fmt.Errorf("load model: %w", err)
	}
	defer file.Close()
	m, vocabulary, err := load(file, settings)
	if err != nil {
		return "", fmt.Errorf("load model: %s: %w", o.model, err)
	}
	trace := observe.NewTrace(settings, m, stderr)
	trace.Loaded(time.Since(started))
	trace.Meta()
	text, err := produce(o, settings, m, vocabulary, trace)
	if flushed := trace.Flush(); err == nil {
		err = flushed
	}
	if err != nil {
		return "", fmt.Errorf("generate: %w", err)
	}
	return o.line(file, m, text), nil
}

func load(file *gguf.File, settings observe.Settings) (*model.Model, *vocab.Vocabulary, error) {
	vocabulary, err := vocab.Read(file.Metadata)
	if err != nil {
		return nil, nil, err
	}
	m, err := model.Load(file, settings.FloatTernary)
	if err != nil {
		return nil, nil, err
	}
	if vocabulary.Size() != m.Vocab {
		return nil, nil, fmt.Errorf("%d tokens, but a vocabulary of %d", vocabulary.Size(), m.Vocab)
	}
	return m, vocabulary, nil
}

// produce runs all sequences and returns the text of the first, which alone is traced.
func produce(o options, settings observe.Settings, m *model.Model, vocabulary *vocab.Vocabulary,
	trace *observe.Trace) (string, error) {
	request := generate.Request{
		Prompt: vocabulary.Encode(o.prompt), MaxTokens: o.maxTokens, Sampling: o.sampling, Forced: settings.ForceTokens,
	}
	if err := request.Check(m, settings); err != nil {
		return "", err
	}
	text := o.prompt
	for sequence := range o.batch {
		tokens, err := generate.Run(m, request, trace)
		if err != nil {
			return "", err
		}
		for _, token := range tokens {
			if sequence == 0 {
				text += vocabulary.Piece(token)
			}
		}
		request.Sampling.Seed++
		trace = observe.NewTrace(observe.Settings{TraceStep: -1, LogitsAt: -1}, m, io.Discard)
	}
	return text, nil
}
