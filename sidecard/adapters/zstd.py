"""What compresses values: zstd, by cramjam.

Measured on two cores (Python 3.11, English text, microseconds to compress and to decompress, and what is left of 1 byte):

==========  ===============  ===============  ===============  ================  =================
size        cramjam level 1  zstandard        backports.zstd   cramjam level -1  cramjam's lz4
==========  ===============  ===============  ===============  ================  =================
1 KiB       23, 11, 0.55     20, 4, 0.55      23, 18, 0.55     13, 5, 0.74       3, 1, 0.75
4 KiB       45, 22, 0.42     32, 12, 0.42     55, 22, 0.42     38, 14, 0.54      17, 3, 0.60
16 KiB      124, 50, 0.39    129, 38, 0.39    152, 58, 0.39    116, 38, 0.49     74, 25, 0.56
64 KiB      524, 148, 0.34   518, 139, 0.34   518, 212, 0.34   531, 140, 0.41    308, 27, 0.48
256 KiB     2005, 599, 0.29  1978, 568, 0.29  1954, 606, 0.29  1977, 574, 0.36   1390, 455, 0.46
==========  ===============  ===============  ===============  ================  =================

Levels 3, 6 and 9 take 1.3, 4 and 8 times as long as level 1 and leave 0.01 to 0.04 less. cramjam is here in any case (it
brings snappy to what is pushed); zstandard would be faster below 16 KiB, where least is saved, and is 24 MB on disk.
"""

LEVEL = 1


class Zstd:
    """See `sidecard.core.cache.compression.Codec`."""

    def compress(self, value: bytes) -> bytes:
        """Make a value smaller, if it can be."""
        from cramjam import zstd  # noqa: PLC0415 - 6 ms and 2.3 MB, for daemons that compress; then a look-up

        return bytes(zstd.compress(value, LEVEL))

    def decompress(self, data: memoryview, size: int) -> bytes:
        """Return the value, which has ``size`` bytes. Raises `ValueError` where ``data`` is damaged."""
        from cramjam import DecompressionError, zstd  # noqa: PLC0415 - as above

        # Into room of the right size, and no more: what expands to a thousand times of it fails instead.
        value = bytearray(size)
        try:
            found = zstd.decompress_into(data, value)
        except DecompressionError as error:
            raise ValueError("not a compressed value") from error

        if found != size:
            raise ValueError("a compressed value of another size")

        return bytes(value)
