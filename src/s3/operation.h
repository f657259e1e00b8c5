/* Finding a request's operation; inside s3/ only. */
#ifndef NEF_S3_OPERATION_H
#define NEF_S3_OPERATION_H

#include "s3/request_internal.h"

/* Sets op, op_name and body_is_xml of p->r from the method, its bucket and key, the query and
 * x-amz-copy-source. MethodNotAllowed, InvalidArgument, AccessForbidden (OPTIONS: no CORS here). */
NEF_MUST_CHECK nef_err nef_s3_find_operation(struct nef_s3_parser *p);

#endif
