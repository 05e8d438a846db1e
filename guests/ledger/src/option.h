/* Options on the command line, for the kernel as well as the program. */
#ifndef OPTION_H
#define OPTION_H

#include "abi.h"

/* The number in the last word `name=NUMBER` of a command line, or `otherwise`. */
static inline u64 option(const char *cmdline, const char *name, u64 otherwise)
{
	u64 v = otherwise;
	for (const char *p = cmdline; *p; p++) {
		const char *q = p, *n = name;
		if (p != cmdline && p[-1] != ' ')
			continue;
		while (*n && *q == *n)
			q++, n++;
		if (*n || *q++ != '=')
			continue;
		for (v = 0; *q >= '0' && *q <= '9'; q++)
			v = 10 * v + (*q - '0');
	}
	return v;
}

#endif
