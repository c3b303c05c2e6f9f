// What the changes of labml's script in page.py call, and labels for the icons. It is loaded before labml's script.
"use strict";

const labmlBn = {
    // Seconds on the refresh button's clock: a refresh is due one second after it shows 0. Elsewhere than in the list,
    // the clock runs only while the run is running.
    refreshSeconds() {
        const isList = /^\/runs(\/|$)/.test(location.pathname);
        return isList && document.querySelector(".runs-list .status .text-info") === null ? 120 : 4;
    },

    // Add the charts that the run has got since its page was opened: one appears with its first metric.
    addNewCharts(view) {
        const count = view.customMetrics.getMetrics().length;
        if (view.chartCount !== undefined && view.chartCount !== count) {
            view.cardContainer.innerHTML = "";
            view.cards.length = 0;
            view.renderCards();
        }
        view.chartCount = count;
    },

    // One colour per metric: ten that differ well (Tableau's), then the same again.
    colours(count) {
        const ten = [
            "#4e79a7", "#f28e2c", "#59a14f", "#e15759", "#76b7b2", "#af7aa1", "#9c755f", "#edc949", "#ff9da7", "#bab0ab",
        ];
        return Array.from({length: count}, (_, number) => ten[number % ten.length]);
    },

    // The colours of the other run in a comparison: the same hues, greyer. Its lines are dashed.
    paleColours(count) {
        return labmlBn.colours(count).map(colour => d3.interpolateRgb(colour, "#8c8c8c")(0.3));
    },

    // The losses and accuracies first, so that all of them get different colours.
    inColourOrder(series) {
        const isStatistic = one => Number(one.name.startsWith("bn."));
        return [...series].sort((one, other) => isStatistic(one) - isStatistic(other));
    },

    // What a text in the search field finds: itself, in upper or lower case.
    searched(text) {
        return new RegExp(text.toLowerCase().replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    },

    // Which metrics a new comparison shows: 1 if shown, -1 if not.
    compared(series) {
        return series.map(one => ["accuracy.valid", "loss.valid"].includes(one.name) ? 1 : -1);
    },

    // The rows of a run's details that say where its code is; without a repository there are none.
    showOrigin($, run) {
        for (const [name, text] of [
            ["Repository", run.repo_remotes], ["Commit", run.commit], ["Commit message", run.commit_message],
        ]) {
            if (!text || (name === "Commit message" && !run.commit)) {
                continue;
            }
            $("li", $ => {
                $("span", ".item-key", name);
                $("span", ".item-value", $ => {
                    if (/^https?:\/\//.test(text)) {
                        $("a", text, {href: text, target: "_blank", rel: "noopener noreferrer"});
                    } else {
                        $("span", text);
                    }
                });
            });
        }
    },

    // The labels of icons, by Font Awesome's names.
    labels: {
        "fa-archive": "Archive",
        "fa-bars": "Menu",
        "fa-chart-line": "Run",
        "fa-chevron-down": "Collapse",
        "fa-chevron-left": "Back",
        "fa-edit": "Select runs",
        "fa-eye": "Shown",
        "fa-eye-slash": "Hidden",
        "fa-plus": "Add a chart",
        "fa-save": "Save",
        "fa-share-alt": "Copy the link",
        "fa-spinner": "Loading",
        "fa-star": "Favourite: shown in the list of runs",
        "fa-sync": "Refresh",
        "fa-times": "Cancel",
        "fa-trash": "Delete",
        "fa-upload": "Move back from the archive",
    },

    // Label an icon, or the control that consists of it. A control with a text needs none.
    label(icon) {
        const name = Object.keys(labmlBn.labels).find(name => icon.classList.contains(name));
        const control = icon.closest("nav, a, button");
        const isCompared = /\/compare$/.test(location.pathname);
        icon.setAttribute("aria-hidden", "true");
        if (control !== null && control.tagName === "NAV") {
            control.setAttribute("role", "button");
            control.tabIndex = 0;
        }
        if (name === undefined || (control !== null && /[^\d\s]/.test(control.textContent))) {
            return;
        }
        const label = name === "fa-edit" && isCompared ? "Select the run to compare with" : labmlBn.labels[name];
        const labelled = control ?? icon;
        labelled.title = label;
        labelled.setAttribute("aria-label", label);
        if (control === null) {
            icon.removeAttribute("aria-hidden");
            icon.setAttribute("role", "img");
        }
    },
};

new MutationObserver(changes => {
    for (const change of changes) {
        for (const added of change.addedNodes) {
            if (added instanceof Element) {
                const icons = [added, ...added.querySelectorAll('[class*="fa-"]')];
                icons.filter(icon => /\bfa-/.test(icon.getAttribute("class"))).forEach(labmlBn.label);
            }
        }
    }
}).observe(document, {childList: true, subtree: true});

// A control that is an element of another kind reacts to the keyboard, as a button does.
document.addEventListener("keydown", event => {
    if ((event.key === "Enter" || event.key === " ") && event.target.matches('nav[role="button"]')) {
        event.preventDefault();
        event.target.click();
    }
});
