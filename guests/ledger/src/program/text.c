/* Memory, text, and lines under construction. */
#include "program.h"

void *memcpy(void *to, const void *from, u64 bytes)
{
	void *p = to;
	asm volatile("rep movsb" : "+D"(p), "+S"(from), "+c"(bytes) : : "memory");
	return to;
}

void *memset(void *to, int value, u64 bytes)
{
	void *p = to;
	asm volatile("rep stosb" : "+D"(p), "+c"(bytes) : "a"(value) : "memory");
	return to;
}

int memcmp(const void *a, const void *b, u64 bytes)
{
	const u8 *p = a, *q = b;
	for (u64 i = 0; i < bytes; i++)
		if (p[i] != q[i])
			return p[i] - q[i];
	return 0;
}

int all_zero(const void *p, u64 bytes)
{
	const u64 *q = p;
	for (u64 i = 0; i < bytes / 8; i++)
		if (q[i])
			return 0;
	return 1;
}

static u64 text_length(const char *s)
{
	u64 n = 0;
	while (s[n])
		n++;
	return n;
}

int text_equal(const char *a, const char *b)
{
	return memcmp(a, b, text_length(a) + 1) == 0;
}

void put(struct line *l, const char *text, u64 bytes)
{
	u64 room = sizeof l->text - l->length;
	if (bytes > room)
		bytes = room;
	memcpy(l->text + l->length, text, bytes);
	l->length += bytes;
}

void put_text(struct line *l, const char *s)
{
	put(l, s, text_length(s));
}

void put_decimal(struct line *l, u64 v, unsigned digits)
{
	char text[21], *p = text + 20;
	*p = 0;
	do {
		*--p = '0' + v % 10;
		v /= 10;
	} while (v || p > text + 20 - digits);
	put_text(l, p);
}

void put_hex(struct line *l, const u8 *p, u64 bytes)
{
	for (u64 i = 0; i < bytes; i++) {
		put(l, &"0123456789abcdef"[p[i] >> 4], 1);
		put(l, &"0123456789abcdef"[p[i] & 15], 1);
	}
}
