//! The websocket channel between edge and cloud: edgehub and cloudhub.
