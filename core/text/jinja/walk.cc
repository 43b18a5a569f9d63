#include "core/text/jinja/walk.h"

namespace octavo::jinja {
namespace {

using VisitName = std::function<void(Name&, int line)>;

void InEach(std::vector<ExprPtr>& exprs, const VisitName& visit) {
  for (ExprPtr& expr : exprs) ForEachName(*expr, visit);
}

void IfAny(ExprPtr& expr, const VisitName& visit) {
  if (expr != nullptr) ForEachName(*expr, visit);
}

void InArguments(CallArguments& arguments, const VisitName& visit) {
  InEach(arguments.positional, visit);
  for (auto& [name, value] : arguments.named) ForEachName(*value, visit);
  IfAny(arguments.star, visit);
  IfAny(arguments.star_star, visit);
}

struct NameVisitor {
  void operator()(Literal&) const {}
  void operator()(BlockText&) const {}
  void operator()(Name& node) const { visit(node, line); }
  void operator()(Unary& node) const { ForEachName(*node.operand, visit); }
  void operator()(Binary& node) const {
    ForEachName(*node.left, visit);
    ForEachName(*node.right, visit);
  }
  void operator()(Logical& node) const {
    ForEachName(*node.left, visit);
    ForEachName(*node.right, visit);
  }
  void operator()(Concat& node) const { InEach(node.parts, visit); }
  void operator()(Compare& node) const {
    ForEachName(*node.first, visit);
    for (auto& [op, right] : node.rest) ForEachName(*right, visit);
  }
  void operator()(Conditional& node) const {
    ForEachName(*node.test, visit);
    ForEachName(*node.then, visit);
    IfAny(node.otherwise, visit);
  }
  void operator()(AttributeOf& node) const { ForEachName(*node.object, visit); }
  void operator()(ItemOf& node) const {
    ForEachName(*node.object, visit);
    ForEachName(*node.index, visit);
  }
  void operator()(SliceOf& node) const {
    ForEachName(*node.object, visit);
    IfAny(node.start, visit);
    IfAny(node.stop, visit);
    IfAny(node.step, visit);
  }
  void operator()(ListOf& node) const { InEach(node.items, visit); }
  void operator()(DictOf& node) const {
    for (auto& [key, value] : node.entries) {
      ForEachName(*key, visit);
      ForEachName(*value, visit);
    }
  }
  void operator()(Call& node) const {
    ForEachName(*node.callee, visit);
    InArguments(node.arguments, visit);
  }
  void operator()(Apply& node) const {
    ForEachName(*node.subject, visit);
    InArguments(node.arguments, visit);
  }

  const VisitName& visit;
  int line;
};

// Goes through statements in the order that decides whether a name is read before it is assigned.
class UseFinder {
 public:
  explicit UseFinder(std::string_view name) : name_(name) {}

  bool reads() const { return reads_; }
  bool stores() const { return stores_; }

  void In(Body& body) {
    for (Statement& statement : body) {
      std::visit([&](auto& node) { Visit(node); }, statement.node);
    }
  }
  void Visit(For& node) {
    InTarget(node.target);
    In(*node.iterable);
    In(node.body);
    In(node.otherwise);
    if (node.test != nullptr) In(*node.test);
  }

 private:
  void In(Expr& expr) {
    ForEachName(expr,
                [&](Name& name, int) { reads_ = reads_ || (name.name == name_ && !assigned_); });
  }
  void InTarget(Target& target) {
    ForEachTargetName(target, [&](Name& name, bool attribute) {
      if (name.name != name_) return;
      assigned_ = true;
      stores_ = stores_ || !attribute;
    });
  }

  void Visit(Output& node) {
    for (ExprPtr& part : node.parts) In(*part);
  }
  void Visit(If& node) {
    for (auto& [test, body] : node.branches) {
      In(*test);
      In(body);
    }
    In(node.otherwise);
  }
  void Visit(Set& node) {
    InTarget(node.target);
    In(*node.value);
  }
  void Visit(SetBlock& node) {
    InTarget(node.target);
    In(*node.value);
    In(node.body);
  }
  void Visit(FilterBlock& node) {
    In(node.body);
    In(*node.value);
  }
  void Visit(With& node) {
    for (auto& [target, value] : node.values) {
      assigned_ = assigned_ || target.name.name == name_;
    }
    for (auto& [target, value] : node.values) In(*value);
    In(node.body);
  }
  void VisitMacro(MacroBody& macro) {
    for (const Name& parameter : macro.parameters) {
      assigned_ = assigned_ || parameter.name == name_;
    }
    for (ExprPtr& value : macro.defaults) In(*value);
    In(macro.body);
  }
  void Visit(Macro& node) { VisitMacro(node.macro); }
  void Visit(CallBlock& node) {
    if (node.call != nullptr) In(*node.call);
    VisitMacro(node.macro);
  }
  void Visit(Break&) {}
  void Visit(Continue&) {}

  std::string_view name_;
  bool reads_ = false;
  bool stores_ = false;
  bool assigned_ = false;
};

}  // namespace

void ForEachName(Expr& expr, const VisitName& visit) {
  std::visit(NameVisitor{visit, expr.line}, expr.node);
}

void ForEachTargetName(Target& target, const std::function<void(Name&, bool)>& visit) {
  if (!target.several) {
    visit(target.name, target.attribute.has_value());
    return;
  }
  for (Target& part : *target.several) ForEachTargetName(part, visit);
}

bool LoadsName(Body& body, std::string_view name) {
  UseFinder finder(name);
  finder.In(body);
  return finder.reads();
}

bool StoresName(For& loop, std::string_view name) {
  UseFinder finder(name);
  finder.Visit(loop);
  return finder.stores();
}

}  // namespace octavo::jinja
