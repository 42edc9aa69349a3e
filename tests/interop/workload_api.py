"""Fetches the X.509 context of this process with the spiffe package and prints what it got.

usage: workload_api.py SOCKET_URI
"""

import sys

from spiffe import WorkloadApiClient

with WorkloadApiClient(socket_path=sys.argv[1]) as client:
    context = client.fetch_x509_context()
    svid = context.default_svid
    print(f"id {svid.spiffe_id}")
    print(f"chain {len(svid.cert_chain)}")
    bundle = context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    print(f"roots {len(bundle.x509_authorities)}")
