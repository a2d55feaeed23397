// Command tokenize prints the tokens of a prompt as a JSON array.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"os"

	"conform/goref/internal/fault"
	"conform/goref/internal/gguf"
	"conform/goref/internal/vocab"
)

// Far more than any prompt needs; a device file must not be read forever.
const largestPrompt = 64 << 20

func main() {
	path := flag.String("model", "", "GGUF `file` (required)")
	prompt := flag.String("prompt", "", "`text` to tokenize; an empty one counts as absent")
	promptFile := flag.String("prompt-file", "", "`file` with the text, taken verbatim")
	flag.Parse()
	if *path == "" || (*prompt == "") == (*promptFile == "") || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "tokenize: expected --model and one of --prompt and --prompt-file")
		os.Exit(2)
	}
	tokens, err := tokenize(*path, *prompt, *promptFile)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(tokens)
	}
	if err != nil {
		log.Fatalf("tokenize: %s", fault.Line(err))
	}
}

func tokenize(path, prompt, promptFile string) ([]int, error) {
	file, err := gguf.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	vocabulary, err := vocab.Read(file.Metadata)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if promptFile != "" {
		if prompt, err = readPrompt(promptFile); err != nil {
			return nil, err
		}
	}
	// Never nil: an empty prompt without BOS is [], not null.
	return append([]int{}, vocabulary.Encode(prompt)...), nil
}

func readPrompt(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, largestPrompt+1))
	if err == nil && len(text) > largestPrompt {
		err = fmt.Errorf("%s is larger than %d bytes", path, largestPrompt)
	}
	return string(text), err
}
