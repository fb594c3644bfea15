"""PS3.4 on top of one association: SCU drivers and SCP dispatch, without sockets."""
