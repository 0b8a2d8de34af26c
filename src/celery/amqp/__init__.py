"""AMQP 0-9-1 as RabbitMQ speaks it: addresses, frames, connections with a thread each, confirmed publishing.

py-amqp greets the server (TLS, login, tuning); from then on the frames are written and read here, because what a task
queue does all day is basic.publish, basic.deliver and basic.ack, many at a time.
"""
