// Command record records what this host's CPU does into a corpus, or shows one case:
//
//	go run ./test/oracle/record -seed S -n CASES -o FILE
//	go run ./test/oracle/record -seed S -case N
package main
