#pragma once

// What one rendering may spend. Templates and conversations come from strangers: every loop,
// recursion and copy of the interpreter is paid for here, so a rendering ends in bounded time and
// memory, whatever the template says.

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace octavo::jinja {

// When a template is parsed.
inline constexpr size_t kTemplateBytesMax = 1 << 20;
inline constexpr int kStatementNestingMax = 60;    // blocks within blocks
inline constexpr int kExpressionNestingMax = 120;  // parentheses; operators in a chain

// When it is rendered. One step is an expression, a statement, a turn of a loop, or 64 bytes or 4
// elements that a filter or method looks at: about 0.1 us, so a rendering takes some seconds at
// most.
inline constexpr int64_t kStepsMax = 20'000'000;
// Of all strings, lists and frames that are made, also those that are freed again.
inline constexpr int64_t kBytesMadeMax = 256 << 20;
inline constexpr size_t kOutputBytesMax = 32 << 20;
inline constexpr int kCallNestingMax = 600;         // expressions and statements being evaluated
inline constexpr int kValueNestingMax = 100;        // lists within lists
inline constexpr int64_t kRangeItemsMax = 100'000;  // the sandbox of Jinja has the same

// Errors: kBadRequest, saying which limit was passed.
class Budget {
 public:
  absl::Status Spend(int64_t steps);
  // For a scan of `bytes` bytes or `items` elements.
  absl::Status SpendBytes(size_t bytes) { return Spend(1 + static_cast<int64_t>(bytes / 64)); }
  absl::Status SpendItems(size_t items) { return Spend(1 + static_cast<int64_t>(items / 4)); }
  // Before `bytes` bytes are made; also pays the steps for writing them.
  absl::Status Make(size_t bytes);

 private:
  int64_t steps_left_ = kStepsMax;
  int64_t bytes_left_ = kBytesMadeMax;
};

}  // namespace octavo::jinja
