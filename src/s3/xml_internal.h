/* Pieces of the XML writer that result documents are made of; inside s3/ only. */
#ifndef NEF_S3_XML_INTERNAL_H
#define NEF_S3_XML_INTERNAL_H

#include "s3/xml.h"

#define NEF_S3_NAMESPACE "http://s3.amazonaws.com/doc/2006-03-01/"

void nef_s3_xml_root(struct nef_buf *out, const char *name); /* declaration and open root */
void nef_s3_xml_open(struct nef_buf *out, const char *name);
void nef_s3_xml_close(struct nef_buf *out, const char *name);
void nef_s3_xml_key(struct nef_buf *out, const char *name, const char *text, size_t bytes,
                    bool encoding_url);
void nef_s3_xml_date(struct nef_buf *out, const char *name, int64_t unix_ms);
void nef_s3_xml_etag(struct nef_buf *out, const char *etag); /* NULL: none */
void nef_s3_xml_person(struct nef_buf *out, const char *name, const struct nef_s3_owner *owner);
void nef_s3_xml_checksum(struct nef_buf *out, const struct nef_s3_checksum_value *checksum);

#endif
