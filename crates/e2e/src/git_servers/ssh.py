"""An SSH server that lets the keys of one file read git repositories, and do nothing else.

ssh.py HOST_KEY AUTHORIZED_KEYS PORT; says the port when it listens there.
"""

import asyncio
import os
import shlex
import subprocess
import sys

import asyncssh


async def serve(process):
    words = shlex.split(process.command or "")
    if len(words) != 2 or words[0] != "git-upload-pack":
        process.stderr.write(b"only git-upload-pack is served here\n")
        process.exit(1)
        return
    environment = dict(os.environ)
    for name, value in process.env.items():
        if name in ("GIT_PROTOCOL", b"GIT_PROTOCOL"):
            environment["GIT_PROTOCOL"] = value.decode() if isinstance(value, bytes) else value
    pipe = subprocess.PIPE
    git = subprocess.Popen(["git", "upload-pack", words[1]], stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
    await process.redirect(stdin=git.stdin, stdout=git.stdout, stderr=git.stderr)
    await process.stdout.drain()
    process.exit(await asyncio.get_running_loop().run_in_executor(None, git.wait))


async def main():
    host_key, authorized_keys, port = sys.argv[1:]
    server = await asyncssh.listen(
        "127.0.0.1",
        int(port),
        server_host_keys=[host_key],
        authorized_client_keys=authorized_keys,
        process_factory=serve,
        encoding=None,
        # It begins again at once, where connections of the one before may still be waited for.
        reuse_address=True,
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.wait_closed()


asyncio.run(main())
