#include "core/text/jinja/evaluator.h"

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/text/jinja/compare.h"
#include "core/text/jinja/format.h"
#include "core/text/jinja/native.h"
#include "core/text/jinja/operators.h"
#include "fmt/format.h"

namespace octavo::jinja {

Evaluator::Evaluator(const Program& program, const Variables& variables, Budget* budget,
                     int64_t now_ns)
    : program_(program),
      variables_(variables),
      budget_(*budget),
      context_{.budget = *budget, .now_ns = now_ns, .namespaces = namespaces_} {}

absl::Status Evaluator::Enter() {
  if (level_ > kCallNestingMax) return RenderError("calls nested too deeply");
  return budget_.Spend(1);
}

absl::Status Evaluator::At(int line, absl::Status status) {
  if (status.ok() || located_) return status;
  located_ = true;
  return WithContext(status, fmt::format("line {}", line));
}

Evaluator::Result Evaluator::Evaluate(const Expr& expr) {
  ++level_;
  absl::Status status = Enter();
  Result result = status.ok() ? std::visit([&](const auto& node) { return Visit(node); }, expr.node)
                              : Result(status);
  --level_;
  if (!result.ok()) return At(expr.line, result.status());
  return result;
}

Evaluator::Result Evaluator::Visit(const Literal& node) { return node.value; }

Evaluator::Result Evaluator::Visit(const Name& node) {
  const Value& value = SlotOf(node.place);
  return value.IsMissing() ? node.undefined : value;
}

Evaluator::Result Evaluator::Visit(const Unary& node) {
  OCTAVO_ASSIGN_OR_RETURN(const Value operand, Evaluate(*node.operand));
  return ApplyUnary(node.op, operand);
}

Evaluator::Result Evaluator::Visit(const Binary& node) {
  OCTAVO_ASSIGN_OR_RETURN(const Value left, Evaluate(*node.left));
  OCTAVO_ASSIGN_OR_RETURN(const Value right, Evaluate(*node.right));
  return ApplyBinary(node.op, left, right, budget_);
}

Evaluator::Result Evaluator::Visit(const Logical& node) {
  OCTAVO_ASSIGN_OR_RETURN(const Value left, Evaluate(*node.left));
  if (Truth(left) != node.is_and) return left;
  return Evaluate(*node.right);
}

Evaluator::Result Evaluator::Visit(const Concat& node) {
  std::string out;
  for (const ExprPtr& part : node.parts) {
    OCTAVO_ASSIGN_OR_RETURN(const Value value, Evaluate(*part));
    OCTAVO_ASSIGN_OR_RETURN(const std::string text, ToText(value, budget_));
    out += text;
  }
  return MakeText(std::move(out), budget_);
}

Evaluator::Result Evaluator::Visit(const Compare& node) {
  OCTAVO_ASSIGN_OR_RETURN(Value left, Evaluate(*node.first));
  for (const auto& [op, expr] : node.rest) {
    OCTAVO_ASSIGN_OR_RETURN(Value right, Evaluate(*expr));
    bool holds = false;
    if (op == CompareOp::kEqual || op == CompareOp::kNotEqual) {
      OCTAVO_ASSIGN_OR_RETURN(const bool equal, Equal(left, right, budget_));
      holds = equal == (op == CompareOp::kEqual);
    } else if (op == CompareOp::kIn || op == CompareOp::kNotIn) {
      OCTAVO_ASSIGN_OR_RETURN(const bool inside, Contains(right, left, budget_));
      holds = inside == (op == CompareOp::kIn);
    } else {
      OCTAVO_ASSIGN_OR_RETURN(const auto order, Order(left, right, budget_));
      holds = (op == CompareOp::kLess && order < 0) ||
              (op == CompareOp::kLessOrEqual && order <= 0) ||
              (op == CompareOp::kGreater && order > 0) ||
              (op == CompareOp::kGreaterOrEqual && order >= 0);
    }
    if (!holds) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

Evaluator::Result Evaluator::Visit(const Conditional& node) {
  OCTAVO_ASSIGN_OR_RETURN(const Value test, Evaluate(*node.test));
  if (Truth(test)) return Evaluate(*node.then);
  if (node.otherwise != nullptr) return Evaluate(*node.otherwise);
  return Value::UndefinedValue("an inline if without an else was false");
}

Evaluator::Result Evaluator::Visit(const AttributeOf& node) {
  OCTAVO_ASSIGN_OR_RETURN(const Value object, Evaluate(*node.object));
  return GetAttribute(object, node.name, budget_);
}

Evaluator::Result Evaluator::Visit(const ItemOf& node) {
  OCTAVO_ASSIGN_OR_RETURN(const Value object, Evaluate(*node.object));
  OCTAVO_ASSIGN_OR_RETURN(const Value index, Evaluate(*node.index));
  return GetItem(object, index, budget_);
}

Evaluator::Result Evaluator::Visit(const SliceOf& node) {
  OCTAVO_ASSIGN_OR_RETURN(const Value object, Evaluate(*node.object));
  SliceParts parts;
  if (node.start != nullptr) {
    OCTAVO_ASSIGN_OR_RETURN(parts.start, Evaluate(*node.start));
  }
  if (node.stop != nullptr) {
    OCTAVO_ASSIGN_OR_RETURN(parts.stop, Evaluate(*node.stop));
  }
  if (node.step != nullptr) {
    OCTAVO_ASSIGN_OR_RETURN(parts.step, Evaluate(*node.step));
  }
  return GetSlice(object, parts, budget_);
}

Evaluator::Result Evaluator::Visit(const ListOf& node) {
  Items items;
  items.reserve(node.items.size());
  for (const ExprPtr& item : node.items) {
    OCTAVO_ASSIGN_OR_RETURN(Value value, Evaluate(*item));
    items.push_back(std::move(value));
  }
  return MakeSequence(node.kind, std::move(items), budget_);
}

Evaluator::Result Evaluator::Visit(const DictOf& node) {
  Entries entries;
  for (const auto& [key_expr, value_expr] : node.entries) {
    OCTAVO_ASSIGN_OR_RETURN(Value key, Evaluate(*key_expr));
    OCTAVO_ASSIGN_OR_RETURN(Value value, Evaluate(*value_expr));
    entries.emplace_back(std::move(key), std::move(value));
  }
  return MakeDict(std::move(entries), budget_);
}

Evaluator::Result Evaluator::Visit(const Call& node) {
  OCTAVO_ASSIGN_OR_RETURN(const Value callee, Evaluate(*node.callee));
  OCTAVO_ASSIGN_OR_RETURN(Arguments arguments, Evaluate(node.arguments));
  return CallValue(callee, std::move(arguments));
}

Evaluator::Result Evaluator::Visit(const Apply& node) {
  OCTAVO_ASSIGN_OR_RETURN(const Value subject, Evaluate(*node.subject));
  if (node.is_filter && subject.IsString() && subject.As<String>()->safe &&
      node.function->name != "safe" && node.function->name != "string" &&
      node.function->name != "length" && node.function->name != "tojson") {
    return RenderError(
        fmt::format("the filter '{}' on a string marked safe is not handled", node.function->name));
  }
  OCTAVO_ASSIGN_OR_RETURN(Arguments arguments, Evaluate(node.arguments));
  return CallNative(*node.function, subject, std::move(arguments), context_);
}

Evaluator::Result Evaluator::Visit(const BlockText&) { return block_texts_.back(); }

}  // namespace octavo::jinja
