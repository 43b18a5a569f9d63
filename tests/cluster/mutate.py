"""Requests that nobody would send: protobuf messages changed field by field, and bytes changed below that.

A message of any type is changed along its descriptor: numbers at their ends and beyond what is allowed, NaN, texts that are
empty, enormous, not UTF-8 or look like templates and paths, lists without and with far too many elements. Below that, bytes
are flipped, cut, doubled and made up. All of it follows from one random.Random.
"""

import math
import struct

from google.protobuf.descriptor import FieldDescriptor as Field

# Python refuses to put these into a string field: three bytes stand in for each, and are replaced in the serialized message.
NOT_UTF8 = {"\ue000": b"\xff\xfe\xfd", "\ue001": b"\xed\xa0\x80", "\ue002": b"\xc0\x80\x00", "\ue003": b"\xf4\x90\x80",
            "\ue004": b"ab\xe2"}
TEXTS = ["", "\0", "a", "{{ messages[0] }}", "{% for x in range(10**9) %}{% endfor %}", "<|endoftext|>", "<s></s>", "../../etc/passwd",
         "\ue000", "text \ue001 text", "\ue002", "\ue003", "\ue004", "\U0001f9a6" * 7, "a\u0301\u0327" * 40, " " * 3000, "\n" * 300,
         "\u202e\u200d\ufeff", "x" * 100000, "0" * 70, "-1", "user", "system", "octavo"]
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 0.001, 0.000999, 1e-45, 1e-38, 3.4e38, -3.4e38, 100.0, 100.001, 2.0, -2.0, math.nan, math.inf, -math.inf]
BITS = {Field.CPPTYPE_INT32: (32, True), Field.CPPTYPE_UINT32: (32, False), Field.CPPTYPE_INT64: (64, True),
        Field.CPPTYPE_UINT64: (64, False)}


def scalar(draw, field):
    """Some value for a field that is not a message."""
    kind = field.cpp_type
    if kind in BITS:
        bits, signed = BITS[kind]
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        value = draw.choice([0, 1, 2, 3, 7, 16, 17, 20, 21, 255, 256, 300, 319, 320, 321, 1024, 1025, 65536, low, low + 1, high,
                             high - 1, high // 2, draw.randint(low, high), -1])
        return min(max(value, low), high)
    if kind == Field.CPPTYPE_BOOL:
        return draw.random() < 0.5
    if kind == Field.CPPTYPE_ENUM:
        return draw.choice([0, 1, 2, 3, 4, 99, -1, 2**31 - 1, -2**31])
    if kind in (Field.CPPTYPE_FLOAT, Field.CPPTYPE_DOUBLE):
        return draw.choice(FLOATS + [struct.unpack("f", draw.randbytes(4))[0], draw.uniform(-3, 3)])
    text = draw.choice(TEXTS)
    if draw.random() < 0.02:
        text *= draw.choice([10, 1000]) if len(text) < 4000 else 20
    if kind == Field.CPPTYPE_STRING and field.type == Field.TYPE_BYTES:
        return text.encode()
    return text


def is_map(field):
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def change_list(draw, message, field):
    values = getattr(message, field.name)
    if draw.random() < 0.2:
        message.ClearField(field.name)
        return
    count = draw.choice([1, 1, 1, 2, 3, 17, 33, 100, 1025])
    if draw.random() < 0.01:
        count = 200000
    if is_map(field):
        key, value = field.message_type.fields
        for _ in range(min(count, 2000)):
            values[scalar(draw, key)] = scalar(draw, value)
    elif field.message_type is not None:
        for _ in range(min(count, 2000)):
            change_field(draw, values.add())
    elif count > 100:
        value = scalar(draw, field)
        if isinstance(value, (str, bytes)) and draw.random() < 0.9:
            value = value[:5000]  # else up to 100 MB and beyond what a message may have
        values.extend([value] * count)
    else:
        values.extend(scalar(draw, field) for _ in range(count))


def change_field(draw, message):
    """Changes one field of `message`, or of a message in it."""
    fields = message.DESCRIPTOR.fields
    if not fields:
        return
    field = draw.choice(fields)
    if field.label == Field.LABEL_REPEATED:
        change_list(draw, message, field)
    elif field.message_type is not None:
        if draw.random() < 0.1:
            message.ClearField(field.name)
        else:
            child = getattr(message, field.name)
            child.SetInParent()
            change_field(draw, child)
    else:
        setattr(message, field.name, scalar(draw, field))


def change_bytes(draw, data):
    data = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 5])):
        at = draw.randrange(len(data) + 1)
        way = draw.randrange(7)
        if way == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif way == 1:
            del data[at:]
        elif way == 2:
            data[at:at] = draw.randbytes(draw.choice([1, 2, 9, 300]))
        elif way == 3:
            data += data[at:at + 200]
        elif way == 4:
            data[at:at] = b"\x0b" * draw.choice([1, 50, 20000])  # groups that begin and never end
        elif way == 5:
            data[at:at] = b"\xff" * draw.choice([5, 9, 10, 11])  # a number that does not end
        else:
            del data[at:at + draw.choice([1, 2, 8])]
    return bytes(data)


def mutant(draw, message):
    """The bytes of a changed copy of `message`."""
    changed = type(message)()
    changed.CopyFrom(message)
    for _ in range(draw.choice([0, 0, 1, 1, 1, 1, 2, 2, 5])):
        change_field(draw, changed)
    data = changed.SerializeToString()
    for text, raw in NOT_UTF8.items():
        data = data.replace(text.encode(), raw)
    if draw.random() < 0.15:
        data = change_bytes(draw, data)
    if draw.random() < 0.02:
        data = draw.randbytes(draw.choice([0, 1, 7, 100, 5000]))
    return data
