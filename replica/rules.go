package replica

// Rule names a rule of the protocol. A test build can switch one off, to show that the
// simulator finds out.
type Rule uint8

const (
	// RuleP1: what reaches the primary goes into the record of the next boundary.
	RuleP1 Rule = 1 + iota
	// RuleP2: at a boundary the primary appends the record and delivers what is in it.
	RuleP2
	// RuleP3: a backup ignores the interrupts of its own host.
	RuleP3
	// RuleP4: a backup acknowledges a record when it holds it.
	RuleP4
	// RuleP5: a backup runs an epoch only when it holds the record that ends it.
	RuleP5
	// RuleP6: a backup that takes over uses up its records, then runs the failover epoch.
	RuleP6
	// RuleFailover: the failover epoch is run to its full length, without new inputs.
	RuleFailover
	// RuleP7: after the failover epoch every outstanding I/O operation is issued again.
	RuleP7
	// RuleOutput: an output leaves only when the record that opened its epoch is committed.
	RuleOutput
	// RuleLeft: what the backup is told to have left has left.
	RuleLeft
	// RuleShared: a request to a shared disk is an output like others.
	RuleShared
	// RuleFence: a backup acquires the shared disks before it claims the machine.
	RuleFence
	// RuleTime: guest time does not go back.
	RuleTime
	// RuleHandover: a primary that asked its backup to go on does not go on itself, unless the backup cannot.
	RuleHandover
	// RuleAwait: in the failover epoch, too, a halted guest gets the completion that it waits for.
	RuleAwait
)
