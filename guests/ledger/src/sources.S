/* The note that tells which sources this was built from: owner "ledger", type 1, SHA-256
 * of the listing that sha256sum prints of them. The Makefile and ledger_test.go agree. */
	.section .note.sources, "a", @note
	.balign	4
	.long	2f - 1f, 4f - 3f, 1
1:	.asciz	"ledger"
2:	.balign	4
3:	.byte	SOURCES
4:
	.section .note.GNU-stack, "", @progbits
