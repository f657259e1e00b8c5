/* Who the client of a TLS listener is. libmicrohttpd asks for a certificate and takes any; GnuTLS, which it stands on, is asked here
 * whether the region's CA vouches for it. The only file that includes its headers. */
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include "http/http_internal.h"
#include "io/tls.h"

nef_err nef_http_session_zone(void *session, char out_zone[NEF_ZONE_NAME_MAX + 1])
{
    gnutls_typed_vdata_st purpose = {.type = GNUTLS_DT_KEY_PURPOSE_OID, .data = (unsigned char *)GNUTLS_KP_TLS_WWW_CLIENT, .size = 0};
    const gnutls_datum_t *chain;
    unsigned count = 0, status = 1;

    if (gnutls_certificate_type_get2(session, GNUTLS_CTYPE_CLIENT) != GNUTLS_CRT_X509)
        return NEF_E_DENIED;
    if (gnutls_certificate_verify_peers(session, &purpose, 1, &status) != GNUTLS_E_SUCCESS || status != 0)
        return NEF_E_DENIED;
    chain = gnutls_certificate_get_peers(session, &count);
    if (chain == NULL || count == 0)
        return NEF_E_DENIED;
    return nef_tls_cert_zone(chain[0].data, chain[0].size, out_zone);
}
