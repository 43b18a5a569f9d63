#include "worker/stage/buffer_budget.h"

#include <cstdint>
#include <stop_token>
#include <thread>

#include "core/base/error.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

constexpr uint64_t kHugePage = 2u << 20;

uint64_t Remainder(const BufferBudget::Loan& loan, uint64_t page) {
  return reinterpret_cast<uintptr_t>(loan.bytes().data()) % page;
}

TEST(BufferBudget, LargeLoansStartAtAHugePageAndHoldOne) {
  BufferBudget budget(8u << 20);
  const std::stop_token never;
  for (const uint64_t size : {kHugePage / 2, kHugePage * 3 / 4, kHugePage + 5}) {
    auto loan = budget.Borrow(size, never);
    ASSERT_TRUE(loan.ok()) << loan.status();
    EXPECT_EQ(Remainder(*loan, kHugePage), 0u) << size;
    EXPECT_GE(loan->bytes().size(), size);
    EXPECT_EQ(budget.in_use(), BufferBudget::Held(size)) << size;
    for (std::byte& byte : loan->bytes()) byte = std::byte{1};
  }
  EXPECT_EQ(BufferBudget::Held(kHugePage * 3 / 4), kHugePage);
  EXPECT_EQ(BufferBudget::Held(kHugePage + 5), kHugePage + 4096);
  EXPECT_EQ(budget.in_use(), 0u);
  EXPECT_EQ(budget.peak(), kHugePage + 4096);
}

TEST(BufferBudget, SmallLoansHoldWholePages) {
  BufferBudget budget(4 * 4096);
  auto loan = budget.Borrow(4097, {});
  ASSERT_TRUE(loan.ok());
  EXPECT_EQ(Remainder(*loan, 4096), 0u);
  EXPECT_EQ(budget.in_use(), 2u * 4096);
}

TEST(BufferBudget, WaitsForRoomRefusesWhatNeverFitsAndStops) {
  BufferBudget budget(2 * 4096);
  EXPECT_EQ(ReasonOf(budget.Borrow(3 * 4096, {}).status()), Reason::kOutOfMemory);
  auto all = budget.Borrow(2 * 4096, {});
  ASSERT_TRUE(all.ok());
  std::stop_source stopped;
  stopped.request_stop();
  EXPECT_EQ(ReasonOf(budget.Borrow(1, stopped.get_token()).status()), Reason::kCancelled);
  uint64_t held_after = 0;
  std::jthread waiter([&] {
    auto loan = budget.Borrow(1, {});
    held_after = loan.ok() ? budget.in_use() : 0;
  });
  { const BufferBudget::Loan given_back = *std::move(all); }
  waiter.join();
  EXPECT_EQ(held_after, 4096u);
}

}  // namespace
}  // namespace octavo
