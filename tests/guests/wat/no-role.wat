;; component
;; A component that answers no question.
(component)
