"""Publishes and receives one message with paho-mqtt, on every way into the broker.

usage: paho_client.py {tcp|tls|ws|wss} HOST PORT VERSION TOPIC [SVID_DIR]
prints "received <payload>", or "refused <reason>"; exits 0 only when the message came back.
"""

import ssl
import sys
import threading

import paho.mqtt.client as mqtt

way, host, port, version, topic = sys.argv[1:6]
protocol = mqtt.MQTTv5 if version == "5" else mqtt.MQTTv311
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="paho", protocol=protocol, transport="websockets" if way.startswith("ws") else "tcp")
if way in ("tls", "wss"):
    directory = sys.argv[6]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The server's name is a SPIFFE ID, which Python's ssl cannot compare.
    context.check_hostname = False
    context.load_verify_locations(f"{directory}/bundle.pem")
    context.load_cert_chain(f"{directory}/svid.pem", f"{directory}/svid.key")
    client.tls_set_context(context)

outcome = []
done = threading.Event()


def finish(text):
    outcome.append(text)
    done.set()


def on_connect(client, userdata, flags, reason, properties):
    if reason.is_failure:
        finish(f"refused {reason}")
    else:
        client.subscribe(topic, qos=2)


def on_subscribe(client, userdata, mid, reasons, properties):
    if reasons[0].is_failure:
        finish(f"refused {reasons[0]}")
    else:
        client.publish(topic, "hello from paho", qos=2)


client.on_connect = on_connect
client.on_subscribe = on_subscribe
client.on_message = lambda client, userdata, message: finish(f"received {message.payload.decode()}")
client.on_connect_fail = lambda client, userdata: finish("refused at the door")
client.connect(host, int(port))
client.loop_start()
done.wait(10)
client.disconnect()
client.loop_stop()
print(outcome[0] if outcome else "nothing within 10 s")
sys.exit(0 if outcome and outcome[0].startswith("received") else 1)
