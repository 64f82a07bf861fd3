"""How much is taken of what comes from elsewhere: each limit is far above what is right, and says why it is there."""

MOST_AT_ONCE = 512 << 20  # bytes of a file in an archive, which is read into memory; a large table has 10 MB
MOST_INNER_ZIP = 2 << 30  # bytes of a zip inside of a zip, which is held in memory; a usual one has 0.2 GB
MOST_UNPACKED = 64 << 30  # bytes of all files of an archive, which testing reads; usual ones have 0.5 to 30 GB
# Times that files may be larger than the archive: tables pack to a tenth of their size, and the worst that deflate does
# is 1,032. What is small may pack as well as it can, such as a hundred thousand empty masks.
MOST_PACKING = 300
FREELY_PACKED = 64 << 20  # bytes
MOST_NAME = 230  # bytes of a file's name: file systems take 255, and a file that is not whole has a longer one here
MOST_ANSWER = 64 << 20  # bytes of Kaggle's answer to a question; a listing of 500 files has 0.2 MB
MOST_RECORD = 16 << 20  # bytes of a record or manifest; one of 500 files has 0.08 MB. Its depth is what Python reads
MOST_PACKED_TEXT = 64 << 20  # bytes of a packed text that is looked through for secrets
MOST_ROWS = 10_000_000  # of a submission; usual ones have 18,000 to 300,000
