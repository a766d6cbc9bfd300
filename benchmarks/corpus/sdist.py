"""Downloads source distributions from pip's package index, as pip is set up here. Run as a program:

    python -m benchmarks.corpus.sdist NAME==VERSION FOLDER

`pip download` would build each of them to learn its metadata: minutes, and other people's code.
"""

import sys
from optparse import Values
from pathlib import Path

from pip._internal.commands.download import DownloadCommand

_STEP_BYTES = 1024 * 1024


class _Download(DownloadCommand):
    def run(self, options: Values, args: list[str]) -> int:
        wanted, folder = args
        name, _, version = wanted.partition("==")
        session = self.get_default_session(options)
        finder = self._build_package_finder(options, session)
        links = [
            candidate.link
            for candidate in finder.find_all_candidates(name)
            if str(candidate.version) == version and not candidate.link.is_wheel
        ]
        if not links:
            sys.stderr.write(f"no source distribution of {wanted} in the package index\n")
            return 1
        with session.get(links[0].url_without_fragment, stream=True) as response:
            response.raise_for_status()
            with (Path(folder) / links[0].filename).open("wb") as file:
                for piece in response.iter_content(_STEP_BYTES):
                    file.write(piece)
        return 0


if __name__ == "__main__":
    sys.exit(_Download("download", "").main(sys.argv[1:]))
