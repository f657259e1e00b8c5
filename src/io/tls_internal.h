/* What tls_make.c (making certificates) and tls.c (using them) share. */
#ifndef NEF_IO_TLS_INTERNAL_H
#define NEF_IO_TLS_INTERNAL_H

#define NEF_TLS_ZONE_URI "nef:zone:"

#endif
