"""What the broker and the result store on Redis share: addresses, connections, pub/sub, and the scripts.

The logic that has to be atomic is in the `*.lua` files beside this one; `scripts` loads them.
"""
