// Slices of a 2:4 weight that is stored as kept codes and a bitmask.

#include "worker/runner/read_tensor.h"

#include <fstream>
#include <random>

#include "core/base/error.h"
#include "core/tensor/bare/two_of_four.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/tiny_llama.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kRows = 37;
constexpr int64_t kColumns = 44;  // the last byte of a mask is half full
constexpr uint64_t kKeptAt = 24, kBitsAt = 5;

class PackedSlices : public ::testing::Test {
 protected:
  void SetUp() override {
    std::mt19937 random(3);
    full_.resize(kRows * kColumns, 0);
    for (size_t i = 0; i < full_.size(); i += 4) {
      full_[i + random() % 4] = static_cast<uint8_t>(1 + random() % 120);
      full_[i + random() % 4] = static_cast<uint8_t>(0x80 + random() % 120);
    }
    kept_.assign(kKeptAt + kRows * kColumns / 2, '\0');
    bits_.assign(kBitsAt + kRows * BitmaskRowBytes(kColumns), '\0');
    for (int64_t row = 0; row < kRows; ++row) {
      ASSERT_EQ(
          PackTwoOfFour(
              full_.data() + row * kColumns, kColumns, true,
              reinterpret_cast<uint8_t*>(kept_.data()) + kKeptAt + row * kColumns / 2,
              reinterpret_cast<uint8_t*>(bits_.data()) + kBitsAt + row * BitmaskRowBytes(kColumns)),
          -1);
    }
    v1::TensorSpec& spec = *tensor_.mutable_tensor()->mutable_spec();
    spec.set_name("X.weight");
    spec.set_dtype(v1::F8_E4M3);
    spec.add_shape(kRows);
    spec.add_shape(kColumns);
    spec.set_file("one");
    spec.set_begin(kKeptAt);
    spec.set_end(kept_.size());
    spec.mutable_bitmask()->set_file("other");
    spec.mutable_bitmask()->set_begin(kBitsAt);
    spec.mutable_bitmask()->set_end(bits_.size());
    Write();
  }
  void Write() {
    WriteText(folder_ / "one", kept_);
    WriteText(folder_ / "other", bits_);
  }
  void Cut(uint32_t axis, int64_t begin, int64_t end) {
    tensor_.mutable_slice()->set_axis(axis);
    tensor_.mutable_slice()->set_begin(begin);
    tensor_.mutable_slice()->set_end(end);
  }
  absl::Status Read(int64_t begin, int64_t end, std::vector<std::byte>* out) {
    ShardFiles files(folder_ / "");
    return SliceReader(&files, tensor_).ReadRows(begin, end, out);
  }

  const TestFolder folder_;
  std::vector<uint8_t> full_;
  std::string kept_, bits_;
  v1::RankTensor tensor_;
};

TEST_F(PackedSlices, AreThoseOfTheWholeMatrix) {
  const auto check = [&](int64_t row_begin, int64_t row_end, int64_t begin, int64_t end) {
    std::vector<std::byte> out;
    const absl::Status status = Read(row_begin, row_end, &out);
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_EQ(out.size(), static_cast<size_t>((row_end - row_begin) * (end - begin)));
    for (int64_t row = row_begin; row < row_end; ++row) {
      for (int64_t column = begin; column < end; ++column) {
        ASSERT_EQ(static_cast<uint8_t>(
                      out[static_cast<size_t>((row - row_begin) * (end - begin) + column - begin)]),
                  full_[static_cast<size_t>(row * kColumns + column)])
            << row << " " << column;
      }
    }
  };
  check(0, kRows, 0, kColumns);
  check(5, 6, 0, kColumns);
  Cut(0, 11, 23);
  check(11, 23, 0, kColumns);
  for (int64_t begin = 0; begin < kColumns; begin += 3) {
    for (int64_t end = begin + 1; end <= kColumns; end += 5) {
      Cut(1, begin, end);
      check(0, kRows, begin, end);
      check(7, 9, begin, end);
    }
  }
}

TEST_F(PackedSlices, BrokenMasksAndCodesAreToldOf) {
  const std::string good = bits_;
  bits_[kBitsAt + 9 * BitmaskRowBytes(kColumns) + 2] ^= 0x10;
  Write();
  std::vector<std::byte> out;
  ASSERT_TRUE(Read(0, 9, &out).ok());
  absl::Status status = Read(0, kRows, &out);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(ReasonOf(status), Reason::kBadCheckpoint);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("file other, tensor X.weight, byte offset 61"));  // 5 + 9 * 6 + 2
  bits_ = good;
  kept_[kKeptAt + 4 * kColumns / 2] = '\x7f';
  Write();
  status = Read(0, kRows, &out);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(ReasonOf(status), Reason::kNonFinite);
  kept_[kKeptAt + 4 * kColumns / 2] = 0;
  Write();
  ASSERT_TRUE(Read(0, kRows, &out).ok());
  bits_.resize(bits_.size() - 1);
  Write();
  EXPECT_FALSE(Read(0, kRows, &out).ok());
}

}  // namespace
}  // namespace octavo
