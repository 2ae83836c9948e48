package seccomp

/*
#include <stdarg.h>
#include <stdio.h>

#ifndef __GLIBC__
// Debian compiles libseccomp for glibc with _FORTIFY_SOURCE; in a binary with
// musl this is all that it misses.
int __fprintf_chk(FILE *f, int flag, const char *format, ...)
{
	va_list list;
	int n;

	va_start(list, format);
	n = vfprintf(f, format, list);
	va_end(list);
	return n;
}
#endif
*/
import "C"
