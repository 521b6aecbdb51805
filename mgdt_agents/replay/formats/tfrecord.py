"""TFRecord files of `tf.train.Example`, read without TensorFlow.

A record is its length (uint64), a checksum of that (uint32), the content, and a checksum of it,
little-endian. The `tfrecord` package reads such files too, but compares no checksum. protobuf
parses the content; the class comes with TensorFlow alone, so it is made here from its description.
Sources: tensorflow/tensorflow, `core/lib/io/record_writer.h` and `core/example/feature.proto`.
"""

import os
import struct
from collections.abc import Iterator
from functools import cache
from typing import Any, BinaryIO

from mgdt_agents.errors import ReplayError
from mgdt_agents.replay import files
from mgdt_envs.errors import importing

_LENGTH_BYTES, _CHECKSUM_BYTES = 8, 4
_EXAMPLE = """
name: "mgdt/example.proto"
package: "tensorflow"
syntax: "proto3"
message_type {
  name: "BytesList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES }
}
message_type {
  name: "FloatList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT }
}
message_type {
  name: "Int64List"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 }
}
message_type {
  name: "Feature"
  oneof_decl { name: "kind" }
  field {
    name: "bytes_list" number: 1 type: TYPE_MESSAGE type_name: "BytesList" oneof_index: 0
  }
  field {
    name: "float_list" number: 2 type: TYPE_MESSAGE type_name: "FloatList" oneof_index: 0
  }
  field {
    name: "int64_list" number: 3 type: TYPE_MESSAGE type_name: "Int64List" oneof_index: 0
  }
}
message_type {
  name: "Features"
  field {
    name: "feature" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE
    type_name: "Features.FeatureEntry"
  }
  nested_type {
    name: "FeatureEntry"
    field { name: "key" number: 1 type: TYPE_STRING }
    field { name: "value" number: 2 type: TYPE_MESSAGE type_name: "Feature" }
    options { map_entry: true }
  }
}
message_type {
  name: "Example"
  field { name: "features" number: 1 type: TYPE_MESSAGE type_name: "Features" }
}
"""


@cache
def example_class() -> Any:
    """Return protobuf's class of `tf.train.Example`.

    Raises:
        MissingExtra: if the extra `tfds` is not installed.
    """
    with importing("TFRecord files need google-crc32c and protobuf", "tfds"):
        import google_crc32c  # noqa: F401
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
    # A pool of its own: TensorFlow, if it is there, has these names in the default one.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_EXAMPLE, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


def read_records(file: BinaryIO, path: str) -> Iterator[bytes]:
    """Yield the content of each record of a file, whose checksums are compared.

    Args:
        file: opened at its beginning.
        path: its name, for messages.

    Raises:
        ReplayError: if it is damaged, naming the record.
    """
    size, number = file.seek(0, os.SEEK_END), 0
    file.seek(0)
    while head := file.read(_LENGTH_BYTES):
        place = f"record {number} of {path}"
        head += file.read(_CHECKSUM_BYTES)
        length = struct.unpack("<Q", _checked(head, _LENGTH_BYTES, place))[0]
        rest = max(size - file.tell() - _CHECKSUM_BYTES, 0)
        if length > rest:
            raise ReplayError(
                f"Cannot read {place}: the file ends in it, which has {rest:,} of its "
                f"{length:,} bytes."
            )
        with files.reading(place, length):
            content = _checked(file.read(length + _CHECKSUM_BYTES), length, place)
        yield content
        number += 1


def _checked(content: bytes, length: int, place: str) -> bytes:
    """Return the first `length` bytes, if the checksum that follows is theirs."""
    import google_crc32c

    if len(content) < length + _CHECKSUM_BYTES:
        raise ReplayError(f"Cannot read {place}: the file ends in it.")
    body = content[:length]
    checksum = google_crc32c.value(body)
    # Masked, as TFRecord has it: a checksum of data that have checksums in them is a weak one.
    masked = ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
    (expected,) = struct.unpack("<I", content[length:])
    if masked != expected:
        raise ReplayError(
            f"Cannot read {place}: it is damaged, its CRC-32C is {masked:08x}, "
            f"expected {expected:08x}."
        )
    return body
