package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"strings"

	"ftvm/test/oracle"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("record: ")
	seed := flag.Uint64("seed", 1, "what cases are generated from")
	n := flag.Uint64("n", 0, "number of cases")
	out := flag.String("o", "", "corpus to write")
	one := flag.Int64("case", -1, "show this case of the seed")
	flag.Parse()
	if (*one >= 0) == (*out != "") || *one < 0 && *n == 0 {
		log.Fatal("give either -case, or -n and -o")
	}

	r, err := oracle.NewRecorder()
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	g := oracle.NewGenerator(*seed)
	if *one >= 0 {
		err = show(r, g.Case(uint64(*one)))
	} else {
		err = record(r, g.Cases(0, *n), *out)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func record(r *oracle.Recorder, cases []oracle.Case, file string) error {
	outcomes, err := r.Run(cases)
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := oracle.WriteCorpus(f, oracle.CPU(), cases, outcomes); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return f.Close()
}

// show prints a case, and what it changes.
func show(r *oracle.Recorder, c oracle.Case) error {
	outcomes, err := r.Run([]oracle.Case{c})
	if err != nil {
		return err
	}
	nothing := oracle.Outcome{CS: c.Mode.CS(), State: c.State, Vector: oracle.NoVector}
	fmt.Printf("%v\n\t%s\nbefore:\n%s", &c, oracle.Disassemble(&c), c.Before())
	c.Form = nil // what is undefined is shown as well
	fmt.Printf("after, before:\n\t%s\n", strings.Join(oracle.Compare(&c, &outcomes[0], &nothing), "\n\t"))
	return nil
}
