// A piece that is stored [inputs, outputs], cast by outputs as solvers do: it is turned in memory
// as it is read, and its codes are turned back as they are written.

#include <algorithm>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/base/fault.h"
#include "core/base/status.h"
#include "core/tensor/dtype_proto.h"
#include "worker/stage/unit_run.h"

namespace octavo {
namespace {

// A matrix in memory, row major.
template <typename T>
struct Strided {
  T* data;
  int64_t stride;  // elements
};

// to[column][row] = from[row][column], in squares that stay in the first-level cache.
template <typename T>
void Transpose(Strided<const T> from, int64_t rows, int64_t columns, Strided<T> to) {
  constexpr int64_t kSquare = 64;
  for (int64_t r = 0; r < rows; r += kSquare) {
    for (int64_t c = 0; c < columns; c += kSquare) {
      for (int64_t row = r; row < std::min(r + kSquare, rows); ++row) {
        for (int64_t column = c; column < std::min(c + kSquare, columns); ++column) {
          to.data[column * to.stride + row] = from.data[row * from.stride + column];
        }
      }
    }
  }
}

// The same of elements of 2 or 4 bytes; strides are `columns` and `to_stride`.
void TransposeElements(const std::byte* from, int64_t rows, int64_t columns, int element_bytes,
                       std::byte* to, int64_t to_stride) {
  if (element_bytes == 4) {
    Transpose<uint32_t>({reinterpret_cast<const uint32_t*>(from), columns}, rows, columns,
                        {reinterpret_cast<uint32_t*>(to), to_stride});
  } else {
    Transpose<uint16_t>({reinterpret_cast<const uint16_t*>(from), columns}, rows, columns,
                        {reinterpret_cast<uint16_t*>(to), to_stride});
  }
}

}  // namespace

absl::Status UnitRun::CastTurned(const v1::Piece& piece, const Quantizer& quantizer) {
  const int64_t inputs = piece.row_end() - piece.row_begin();
  const int64_t outputs = ColumnsOf(piece.source());
  const DType dtype = FromProto(piece.source().dtype());
  const int element = ByteSize(dtype);
  const auto elements = static_cast<size_t>(inputs * outputs);
  const auto front = loan_.bytes().first(FrontBytes(piece));
  const auto turned = loan_.bytes().subspan(front.size(), elements * static_cast<size_t>(element));
  const auto codes = loan_.bytes().subspan(front.size() + turned.size(), elements);
  const auto scale = loan_.bytes()
                         .subspan(front.size() + turned.size() + codes.size())
                         .first(static_cast<size_t>(ByteSize(FromProto(piece.scale_dtype()))));

  OCTAVO_RETURN_IF_ERROR(ForChunks(piece, [&](const Chunk& chunk) {
    TransposeElements(chunk.bytes.data(), chunk.rows, outputs, element,
                      turned.data() + (chunk.begin - piece.row_begin()) * element, inputs);
    return absl::OkStatus();
  }));

  std::vector<v1::PieceReport> blocks;
  for (int64_t row = 0; row < outputs; row += kUnitRowMultiple) {
    const Stopwatch watch(&cast_seconds_);
    OCTAVO_RETURN_IF_ERROR(CheckStop());
    const int64_t rows = std::min(kUnitRowMultiple, outputs - row);
    const auto begin = static_cast<size_t>(row * inputs);
    const auto count = static_cast<size_t>(rows * inputs);
    WeightRows block;
    block.bytes =
        turned.subspan(begin * static_cast<size_t>(element), count * static_cast<size_t>(element));
    block.dtype = dtype;
    block.row_begin = row;
    block.rows = rows;
    block.columns = inputs;
    block.tensor = piece.source().name();
    block.file = piece.source().file();
    OCTAVO_ASSIGN_OR_RETURN(
        v1::PieceReport report,
        quantizer.Quantize(block, StatOf(piece), codes.subspan(begin, count), scale));
    blocks.push_back(std::move(report));
  }

  if (piece.weight_out().end() == piece.weight_out().begin()) {  // only measured
    AddReport(piece, std::move(blocks), false);
    return absl::OkStatus();
  }
  OCTAVO_RETURN_IF_ERROR(WriteVerified(piece.scale_out(), 0, scale, front));
  DigestStream scale_digest;
  scale_digest.Add(scale);
  FaultPoint("mid-write");
  // Source elements are twice as long as codes, or longer: half of the front holds a chunk's.
  const int64_t step = ChunkRows(piece);
  DigestStream weight_digest;
  for (int64_t row = 0; row < inputs; row += step) {
    const int64_t rows = std::min(step, inputs - row);
    const auto stored = front.first(static_cast<size_t>(rows * outputs));
    Transpose<uint8_t>({reinterpret_cast<const uint8_t*>(codes.data()) + row, inputs}, outputs,
                       rows, {reinterpret_cast<uint8_t*>(stored.data()), outputs});
    OCTAVO_RETURN_IF_ERROR(WriteVerified(piece.weight_out(), static_cast<uint64_t>(row * outputs),
                                         stored, front.subspan(stored.size())));
    weight_digest.Add(stored);
  }
  AddDigest(piece.weight_out(), weight_digest);
  AddDigest(piece.scale_out(), scale_digest);
  AddReport(piece, std::move(blocks), true);
  return absl::OkStatus();
}

}  // namespace octavo
